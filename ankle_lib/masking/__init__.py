"""Chapter 02: where the foot is, and how much each voxel belongs to a bone.

``foot`` finds a threshold and the foot above it, ``bone_weights`` dilates and blurs the bones,
``mask_images`` does it for all subjects and writes it.
"""
