"""From knowledge of what is unsafe to labels of states: rules, prompts, language models."""
