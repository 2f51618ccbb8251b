"""What coordinator and workers agree on: wire models, codec, encodings, specification."""
