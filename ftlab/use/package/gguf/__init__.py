"""A package for llama.cpp and Ollama: one file of GGUF with weights, tokenizer and template, and a Modelfile."""
