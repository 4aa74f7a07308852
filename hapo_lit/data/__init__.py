"""Problems with paired teacher solutions: generators, files, prompts, batches."""
