"""Trains logistic regression on images.

python scripts/fit.py
python scripts/fit.py --accelerator gpu
python scripts/fit.py --config configs/article.yaml
python scripts/fit.py --data.dataset digits --model.lr 0.05 --max_epochs 5
python scripts/fit.py --resume last
"""

from logreg_lightning.cli import main

if __name__ == "__main__":
    main()
