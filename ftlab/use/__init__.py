"""Tasks beside and after training. They read run directories and never import the engine."""
