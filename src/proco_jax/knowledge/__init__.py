"""From what people know of danger to labels of states: rules, prompts, language models."""
