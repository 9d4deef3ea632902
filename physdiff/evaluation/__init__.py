"""What a trained model is judged by: spectra, one-point statistics, and the report that shows them."""
