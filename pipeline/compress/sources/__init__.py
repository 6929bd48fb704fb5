"""What a trained model file is, by what it says of itself: one reader a kind, nothing is started."""
