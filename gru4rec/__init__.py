"""GRU4Rec on Ray: click logs in, a registered model and top-20 lists out."""

__version__ = "0.1.0"
