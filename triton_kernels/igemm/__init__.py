"""Dense and grouped convolutions as one implicit matrix product."""
