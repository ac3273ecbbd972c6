"""Hugging Face's Trainer with the optimizer that it chooses by itself, saved and resumed half way."""

# boost: 2 of 2
import sys
import tempfile

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6


class Losses(TrainerCallback):
    """Prints what the Trainer logs."""

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            print(repr(logs["loss"]), repr(logs["grad_norm"]))


class Sentences(torch.utils.data.Dataset):
    """Rows of eight words."""

    def __init__(self):
        self.words = torch.randint(0, 48, (8 * steps, 8), generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.words)

    def __getitem__(self, i):
        return {"input_ids": self.words[i], "labels": int(self.words[i][0] < 20)}


def fit(folder, resume=None):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=16,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir=folder, max_steps=steps, per_device_train_batch_size=8, save_steps=max(1, steps // 2),
        logging_steps=1, use_cpu=True, report_to=[], disable_tqdm=True, seed=3, max_grad_norm=1.0,
        dataloader_pin_memory=False, learning_rate=1e-2, weight_decay=0.01,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences(), callbacks=[Losses()])
    trainer.remove_callback(PrinterCallback)  # it prints times, too
    trainer.train(resume_from_checkpoint=resume)
    print(type(trainer.optimizer.optimizer).__name__)


with tempfile.TemporaryDirectory() as place:
    fit(place)
    fit(place, resume=f"{place}/checkpoint-{max(1, steps // 2)}")
