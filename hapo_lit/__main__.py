"""``python -m hapo_lit VERB ...``, the same as ``hapo VERB ...``."""

from hapo_lit.cli import main

if __name__ == "__main__":
    main()
