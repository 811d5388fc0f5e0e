"""One network for MR and CT: norms, distillation, and images made of each other; chapter 10."""
