"""CIFAKE on the Hugging Face hub."""

HUB_DATASET = "dragonintelligence/CIFAKE-image-dataset"
