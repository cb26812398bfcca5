"""The distribution of counts given rates."""
