"""What all recordings share: from frames to feature maps."""
