"""Cold start by modality bridging: long chains of thought from images, questions and two teachers."""
