"""From a graph to a plan and the modules of its kernels."""
