"""R2D-C in plain torch, written from METHOD's text alone, one row at a time; in: ids and draws, out: losses and tau."""

import math

import torch
from torch_oracle import END, GIVEN, PAD, PREDICT, THEN_EXPLAIN, Trainer, alpha


class R2DCTrainer(Trainer):
    """Reason2Decide's second stage with confidence-adaptive sampling and the cycle loss.

    `confidences` holds those of each step; tau is computed again from all of them.
    """

    def __init__(self, model, config, *, vocab_limit, label_tokens):
        super().__init__(model, config.optimizer.learning_rate, config.max_steps)
        self.config, self.vocab_limit, self.label_tokens = config, vocab_limit, label_tokens
        self.confidences = []

    @property
    def warmup(self):
        return math.ceil(self.config.warmup_fraction * self.config.max_steps - 1e-9)

    def tau(self):
        """Mean of warm-up, then that of the last whole window of steps after it."""
        window, after = self.config.tau_window_steps, self.confidences[self.warmup :]
        whole = len(after) // window
        used = after[(whole - 1) * window : whole * window] if whole else self.confidences[: self.warmup]
        together = [value for step in used for value in step]
        return sum(together) / len(together) if together else None

    def logits(self, inputs, written):
        """Of every position after written tokens (the start token not among them)."""
        start = torch.tensor([[PAD, *written]])
        return self.model(**inputs, decoder_input_ids=start).logits[0]

    def decoded(self, question):
        """The greedy label, without its end token, whether it ended, and exp of its mean log-probability."""
        written, log_probs = [], []
        inputs = {"input_ids": torch.tensor([[*PREDICT, *question, END]])}
        with torch.no_grad():
            while len(written) < self.label_tokens and END not in written:
                log_prob = torch.log_softmax(self.logits(inputs, written)[-1, : self.vocab_limit], 0)
                written.append(int(log_prob.argmax()))
                log_probs.append(float(log_prob.max()))
        ended = written[-1] == END
        confidence = math.exp(sum(log_probs) / len(log_probs))
        return written[:-1] if ended else written, ended, confidence

    def target_loss(self, inputs, targets):
        """Summed loss of target ids, and the logits they are read from."""
        logits = self.logits(inputs, targets[:-1])
        return -torch.log_softmax(logits, -1)[torch.arange(len(targets)), torch.tensor(targets)].sum(), logits

    def cycle_loss(self, logits, rationale, label, noise, temperature):
        """Summed loss of the label's ids after `predict: ` and the blurred rationale."""
        words = len(rationale) - (rationale[-1] == END)
        noisy = (logits[:words] + torch.tensor(noise[:words])) / temperature
        forbidden = torch.ones(noisy.shape[1], dtype=torch.bool)
        forbidden[2 : self.vocab_limit] = False
        soft = torch.softmax(noisy.masked_fill(forbidden, -math.inf), -1)
        table = self.model.get_input_embeddings().weight
        embedded = torch.cat([table[list(PREDICT)], soft @ table, table[[END]]])
        return self.target_loss({"inputs_embeds": embedded[None]}, label)[0]

    def r2dc(self, rows, uniform, noise):
        """One step on rows of (question, label, rationale) ids, uniform numbers [B] and Gumbel noise [B, T, V].

        Returns:
            loss, gradient norm, cycle loss, mean confidence, and which rows got the predicted label.
        """
        config, step = self.config, self.updates
        since = step - config.warmup_fraction * config.max_steps
        rising = max(since / (config.transition_fraction * config.max_steps), 0.0)
        pi = min(rising, config.max_sampling_probability)
        tau = self.tau()
        temperature = config.gumbel_start_temperature * (
            config.gumbel_end_temperature / config.gumbel_start_temperature
        ) ** (step / config.max_steps)
        sums = dict.fromkeys(("label", "rationale", "cycle"), 0.0)
        counts, sampled, confidences = dict.fromkeys(sums, 0), [], []
        for (question, gold, rationale), coin, row_noise in zip(rows, uniform, noise, strict=True):
            predicted, ended, confidence = self.decoded(question)
            confidences.append(confidence)
            chance = pi / (1 + math.exp(-10 * (confidence - tau))) if pi else 0.0
            sampled.append(bool(coin < chance))
            given = ([*predicted, END] if ended else predicted) if sampled[-1] else gold
            words = given[:-1] if given[-1] == END else given
            asked = {"input_ids": torch.tensor([[*PREDICT, *question, END]])}
            told = {"input_ids": torch.tensor([[*GIVEN, *words, *THEN_EXPLAIN, *question, END]])}
            sums["label"] += self.target_loss(asked, gold)[0]
            loss, logits = self.target_loss(told, rationale)
            sums["rationale"] += loss
            sums["cycle"] += self.cycle_loss(logits, rationale, given, row_noise, temperature)
            for name, ids in (("label", gold), ("rationale", rationale), ("cycle", given)):
                counts[name] += len(ids)
        label, explained, cycle = (sums[name] / counts[name] for name in ("label", "rationale", "cycle"))
        weight = alpha(step, config.max_steps, config.label_weight, config.warmup_fraction)
        loss = weight * label + (1 - weight) * explained
        if step >= self.warmup:
            loss = loss + config.cycle_weight * cycle
        self.confidences.append(confidences)
        mean = sum(confidences) / len(confidences)
        return loss.item(), self.update(loss), cycle.item(), mean, sampled
