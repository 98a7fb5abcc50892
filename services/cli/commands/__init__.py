"""The commands of `seawall`, one module per noun."""
