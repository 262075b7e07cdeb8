"""The net, its gradients, the diagnostics, the engines and the runs on disk: everything but the screen."""

__version__ = "0.1.0"
