"""Training by the paper's recipes, from images to a checkpoint that the rest of the package scores and exports."""
