"""A Lightning module: its trainer hands the step a closure, and clips."""

# boost: 1 of 1
import sys
import warnings

import lightning
import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6


class Module(lightning.LightningModule):
    """What a user writes."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))

    def training_step(self, batch, index):
        (x,) = batch
        loss = (self.model(x) - x.sin()).square().mean()
        print(repr(loss.item()))
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


warnings.simplefilter("ignore")
torch.manual_seed(0)
trainer = lightning.Trainer(
    accelerator="cpu", devices=1, max_steps=steps, gradient_clip_val=0.5, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
rows = torch.utils.data.TensorDataset(torch.randn(8 * steps, 16))
trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=8))
