"""What training hands over to the server: manifest, text format, tokenizer, layout. Both sides import it."""
