"""Grow a Hugging Face model while `Trainer` trains it: a callback makes the growths of a schedule.

    pip install 'graftwork[transformers]'
    python examples/grow_under_trainer.py

A GPT-2 in miniature on random tokens, so that it runs in seconds. The feed-forward layers of every block grow alike, so
`config.n_inner` follows, and the checkpoint at the end loads with `from_pretrained`.
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import graftwork as gw
from graftwork.integrations.transformers import GrowthCallback


def main() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(50, (64, 16))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, **sizes, bos_token_id=0, eos_token_id=0))

    schedule = gw.GrowthSchedule({"50%": gw.WidenAll(1.5, only="*.mlp.c_fc")}, total_steps=12)
    callback = GrowthCallback(schedule, example_input={"input_ids": tokens[:4]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=12, per_device_train_batch_size=8, use_cpu=True, report_to=[], disable_tqdm=True
        )
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[callback])
        trainer.train()
        print(*callback.receipts, sep="\n")

        model.save_pretrained(folder)
        again = GPT2LMHeadModel.from_pretrained(folder)
    print(f"n_inner {model.config.n_inner}, parameters {again.num_parameters():,}")
    assert again.num_parameters() == model.num_parameters()


if __name__ == "__main__":
    main()
