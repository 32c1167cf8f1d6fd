"""Programs that call a server through another system's own code; each runs with that system's package on its path.

In: JSON on standard input, `{"url", "pairs": [[prompt, response], ...], "rendered": [text, ...], "model",
"tokenizer", "chat_template"}`: the texts as the model's format renders them, the tokenizer as a folder. Out: JSON, the
scores in order.
"""
