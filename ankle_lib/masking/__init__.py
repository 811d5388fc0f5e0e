"""Chapter 02: where the foot is, and how much each voxel belongs to a bone.

``foot`` finds a threshold and the foot above it, ``mask_images`` dilates and blurs the bones, and
does both for all subjects.
"""
