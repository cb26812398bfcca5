"""What happens around a training's steps: checkpoints, early stopping, progress, pictures, averaged weights."""
