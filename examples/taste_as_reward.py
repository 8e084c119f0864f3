"""A taste file as the reward of TRL's GRPO, on prompts.jsonl, for a model of your own.

szpo taste NAME --out taste.json; python examples/taste_as_reward.py
"""

import json
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from szpo.taste import Taste

taste = Taste.from_json(json.loads(Path("taste.json").read_text()))
asked = [json.loads(line)["prompt"] for line in Path("prompts.jsonl").read_text().splitlines()]
rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in asked])
how = GRPOConfig("mine", max_steps=40, per_device_train_batch_size=64, num_generations=8)
how.max_completion_length, how.temperature, how.learning_rate = 48, 0.7, 1e-3
lora = LoraConfig(r=4, target_modules="all-linear")
trainer = GRPOTrainer("owner/model", taste, how, rows, peft_config=lora)
trainer.train()
trainer.save_model("mine")
