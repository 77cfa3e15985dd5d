"""The commands of `arspm`, one module per group. Modules that import torch or Ray are imported inside the commands."""
