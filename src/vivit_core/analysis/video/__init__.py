"""What a trained model predicts for a video of any kind and length."""
