"""What behavior does to a feature map."""
