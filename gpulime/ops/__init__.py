"""One file per kernel: its launcher and its plain PyTorch reference."""
