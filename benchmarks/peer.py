"""What users would run instead: the method in torch and transformers; in: a workload, out: seconds of its parts.

Written from the paper. Plain but not slow: `labels=` for the losses, one backward pass for both, fused AdamW,
`generate` with its cache, padding to the longest row of the batch.
"""

import contextlib
import os
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from benchmarks.workload import END_ID, PAD_ID, Clock, Row, Settings, Workload, at_quantiles

IGNORED = -100
PEAK_RATE, MAX_STEPS, LABEL_WEIGHT = 5e-5, 30000, 0.7
SAMPLING = {"stage1": 0.0, "stage2_gold": 0.0, "stage2_sampled": 0.9}
STREAM_BATCHES = 320


class _EndsAfter:
    """A logits processor: the end token after so many tokens."""

    def __init__(self, tokens: Sequence[int]):
        self.left = torch.tensor(tokens)

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ending = torch.nonzero(self.left == 0).flatten()
        self.left -= 1
        if len(ending):
            scores[ending] = -torch.inf
            scores[ending, END_ID] = 0.0
        return scores


class Peer:
    """T5ForConditionalGeneration with the weights of the workload."""

    def __init__(self, workload: Workload, settings: Settings):
        """Load the weights and choose the batches."""
        torch.manual_seed(settings.seed)
        self.workload, self.settings = workload, settings
        self.device = torch.device("cuda" if settings.device == "gpu" else "cpu")
        self.model = transformers.T5ForConditionalGeneration.from_pretrained(workload.model).to(self.device)
        self.model.train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / MAX_STEPS)
        self.coins = random.Random(settings.seed)
        stream = list(self._stream(STREAM_BATCHES))
        self.batches = [stream[i] for i in at_quantiles(map(_padded_tokens, stream), settings.repeats)]
        self.generation_batches = workload.generation_batches(settings, workload.rows)
        real = sum(2 * len(row.question) + len(row.rationale) for rows in stream for row in rows)
        self.stream_padding = 1 - real / sum(map(_padded_tokens, stream))

    def _stream(self, count: int) -> Any:
        order: list[Row] = []
        shuffle = random.Random(self.settings.seed)
        for _ in range(count):
            while len(order) < self.settings.batch_size:
                order += shuffle.sample(self.workload.rows, len(self.workload.rows))
            yield order[: self.settings.batch_size]
            order = order[self.settings.batch_size :]

    def facts(self) -> dict[str, Any]:
        """What this side runs with."""
        return {
            "platform": self.device.type,
            "threads": torch.get_num_threads(),
            "compute_dtype": self.settings.dtype,
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            "attention": self.model.config._attn_implementation,  # noqa: SLF001
            "label_decode_dropout": False,
            "padding_fraction": self.stream_padding,
        }

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _padded(self, rows: Sequence[Sequence[int]], fill: int = PAD_ID) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=self.device)

    def _prompt(self, name: str, rows: list[Row]) -> list[list[int]]:
        return [[*self.workload.prompts[name], *row.question, END_ID] for row in rows]

    def _given_label(self, rows: list[Row], labels: Sequence[list[int]]) -> list[list[int]]:
        given, then = self.workload.prompts["given"], self.workload.prompts["then_explain"]
        return [
            [*given, *label, *then, *row.question, END_ID] for row, label in zip(rows, labels, strict=True)
        ]

    def _inputs(self, prompts: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self._padded(prompts),
            "attention_mask": self._padded([[1] * len(prompt) for prompt in prompts]),
        }

    def _loss(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> torch.Tensor:
        with self._autocast():
            return self.model(**self._inputs(prompts), labels=self._padded(targets, IGNORED)).loss

    @torch.no_grad()
    def _generated(
        self, prompts: Sequence[list[int]], tokens: int, ends: Sequence[int] | None = None
    ) -> list[list[int]]:
        self.model.eval()
        processors = [] if ends is None else [_EndsAfter(ends)]
        with self._autocast():
            ids = self.model.generate(
                **self._inputs(prompts),
                max_new_tokens=tokens,
                num_beams=1,
                do_sample=False,
                logits_processor=transformers.LogitsProcessorList(processors),
            )
        self.model.train()
        return ids[:, 1:].tolist()

    def _mixed_labels(self, rows: list[Row], probability: float) -> tuple[list[list[int]], int]:
        labels = [row.label[:-1] for row in rows]
        coins = [self.coins.random() < probability for _ in rows]
        if any(coins):
            written = self._generated(self._prompt("predict", rows), self.workload.label_tokens)
            predicted = [ids[: ids.index(END_ID)] if END_ID in ids else ids for ids in written]
            labels = [new if coin else gold for coin, new, gold in zip(coins, predicted, labels, strict=True)]
        return labels, sum(coins)

    def losses(self, stage: int, rows: list[Row], labels: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        """Mean losses over the target tokens of these rows, with the given labels in the rationale prompt."""
        rationales = [row.rationale for row in rows]
        if stage == 1:
            return {"rationale": self._loss(self._prompt("explain", rows), rationales)}
        return {
            "label": self._loss(self._prompt("predict", rows), [row.label for row in rows]),
            "rationale": self._loss(self._given_label(rows, labels), rationales),
        }

    def step(self, part: str, index: int) -> dict[str, float]:
        """One training step on the batch of a quantile, from token ids to the new weights."""
        rows, stage = self.batches[index], 1 if part == "stage1" else 2
        clock = Clock()
        labels, sampled = self._mixed_labels(rows, SAMPLING[part])
        terms = self.losses(stage, rows, labels)
        loss = terms["rationale"]
        if stage == 2:
            loss = LABEL_WEIGHT * terms["label"] + (1 - LABEL_WEIGHT) * terms["rationale"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        self._wait()
        taken = clock.read()
        return {**taken, "loss": value, "sampled_fraction": sampled / len(rows)}

    def warm(self, part: str) -> dict[str, int]:
        """Run a part once."""
        self.step(part, len(self.batches) - 1)
        return {"widths": len({_padded_tokens(rows) for rows in self.batches})}

    def generate(self, kind: str, index: int, same: bool = False) -> dict[str, Any]:
        """Greedy labels ("label", "long_label") or rationales given the gold label.

        No row ends early, except those of an "ended_rationale", which are as long as their gold rationales.

        Of a batch of all rows in the order of the file; of the first rows where both sides must have the `same`.
        """
        rows, settings = self.generation_batches[index], self.settings
        table = self.model.get_input_embeddings().weight
        end = table.data[END_ID].clone()
        # A zero row gives the end token the logit 0, which is never the largest: every row goes to the limit.
        table.data[END_ID] = 0.0
        clock = Clock()
        if same:
            rows = self.workload.rows[: settings.generation_batch_size]
        if kind.endswith("rationale"):
            prompts = self._given_label(rows, [row.label[:-1] for row in rows])
            ends = [len(row.rationale) - 1 for row in rows] if kind == "ended_rationale" else None
            ids = self._generated(prompts, settings.rationale_tokens, ends)
        else:
            limit = settings.long_label_tokens if kind == "long_label" else self.workload.label_tokens
            ids = self._generated(self._prompt("predict", rows), limit)
        taken = clock.read()
        table.data[END_ID] = end
        return {**taken, "ids": ids}

    def warm_generation(self, kind: str) -> dict[str, int]:
        """Run a kind once, on the largest batch."""
        self.generate(kind, len(self.generation_batches) - 1)
        return {"widths": 1}

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Mean losses of the first rows with dropout off and gold labels."""
        rows = self.workload.rows[: self.settings.batch_size]
        self.model.eval()
        found = {
            f"stage{stage}_{name}_loss": float(loss)
            for stage in (1, 2)
            for name, loss in self.losses(stage, rows, [row.label[:-1] for row in rows]).items()
        }
        self.model.train()
        return found

    def pipeline(self, batches: int) -> dict[str, float]:
        """Rows per second of the shuffled stream alone, and of tokenising the texts."""
        loader: Any = torch.utils.data.DataLoader(
            self.workload.rows,  # type: ignore[arg-type]
            batch_size=self.settings.batch_size,
            shuffle=True,
            collate_fn=self._collated,
        )
        taken, start = 0, time.perf_counter()
        while taken < batches:
            for _ in loader:
                taken += 1
                if taken == batches:
                    break
        batch_secs = time.perf_counter() - start
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.workload.tokenizer)
        texts = self.workload.texts()
        start = time.perf_counter()
        for column in zip(*texts, strict=True):
            tokenizer(list(column), add_special_tokens=False)
        token_secs = time.perf_counter() - start
        return {
            "batch_rows_per_sec": batches * self.settings.batch_size / batch_secs,
            "tokenised_rows_per_sec": len(texts) / token_secs,
        }

    def _collated(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        labels = [row.label[:-1] for row in rows]
        batch = {
            f"predict_{name}": array for name, array in self._inputs(self._prompt("predict", rows)).items()
        }
        batch |= self._inputs(self._given_label(rows, labels))
        return batch | {
            "label": self._padded([row.label for row in rows], IGNORED),
            "rationale": self._padded([row.rationale for row in rows], IGNORED),
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def matmul_gflops(self, size: int, repeats: int) -> dict[str, float]:
        """Best rate of a product of two square matrices in the compute dtype."""
        dtype = torch.float32 if self.settings.dtype == "float32" else torch.bfloat16
        left = torch.randn((size, size), dtype=dtype, device=self.device)
        best = float("inf")
        for _ in range(repeats + 1):
            self._wait()
            start = time.perf_counter()
            left @ left
            self._wait()
            best = min(best, time.perf_counter() - start)
        return {"gflops": 2 * size**3 / best / 1e9}

    def device_memory(self) -> int | None:
        """Peak bytes on an accelerator; None on CPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


def _padded_tokens(rows: list[Row]) -> int:
    return len(rows) * (2 * max(len(row.question) for row in rows) + max(len(row.rationale) for row in rows))
