"""What is made from delivered leads."""
