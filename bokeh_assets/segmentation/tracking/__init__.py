"""The parts of the weight-free segmenter: flow, colour models, label solver, prompts to mattes, edges."""
