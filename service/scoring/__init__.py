"""What a reward is: validate, format, tokenize, admit, schedule, collect."""
