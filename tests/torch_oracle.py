"""The method in plain torch, written from METHOD's text alone; in: ids, out: losses and updated weights."""

import torch
from transformers import T5Config, T5ForConditionalGeneration

PAD, END = 0, 1
PREDICT, EXPLAIN, GIVEN, THEN_EXPLAIN = (5, 6), (7, 6), (8, 9, 6), (10, 7, 6)


def random_t5(seed, *, tied=True, gated=False, vocab_size=96):
    """A small T5 of odd shape whose greedy labels differ between rows."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_ff=48,
        d_kv=12,
        num_heads=3,
        num_layers=1,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=tied,
        dropout_rate=0.0,
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer_norm" not in name:
                # Large enough that labels differ, small enough that no softmax saturates: a saturated one
                # makes Adam's first updates a matter of rounding.
                wide = "EncDecAttention.v" in name or "EncDecAttention.o" in name
                weight.normal_(0.0, 1.0 if "shared" in name else 0.5 if wide else 0.12)
    if not tied:
        head = torch.nn.Parameter(torch.randn(vocab_size, config.d_model) * 0.3)
        model.lm_head.weight = head
    return model.eval()


def alpha(step, max_steps, label_weight=0.7, warmup_fraction=0.05):
    """Weight of the label loss at a step."""
    warmup = warmup_fraction * max_steps
    return label_weight if step >= warmup else label_weight * step / warmup


def padded(rows):
    """Id lists to (ids, mask)."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def loss_sum_and_count(model, prompts, targets):
    """Summed token loss of targets (id lists with end token), and how many tokens."""
    input_ids, input_mask = padded(prompts)
    target_ids, target_mask = padded(targets)
    decoder_input = torch.cat([torch.full((len(targets), 1), PAD), target_ids[:, :-1]], dim=1)
    logits = model(input_ids=input_ids, attention_mask=input_mask, decoder_input_ids=decoder_input).logits
    log_probs = torch.log_softmax(logits, dim=-1)
    picked = log_probs.gather(-1, target_ids[:, :, None])[:, :, 0]
    return -(picked * target_mask).sum(), target_mask.sum()


def greedy_labels(model, questions, max_tokens):
    """Label ids by argmax of full forward passes, without the end token."""
    labels = []
    with torch.no_grad():
        for question in questions:
            ids = torch.tensor([[*PREDICT, *question, END]])
            written = [PAD]
            while len(written) <= max_tokens:
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits[0, -1]
                written.append(int(logits.argmax()))
                if written[-1] == END:
                    break
            labels.append([token for token in written[1:] if token != END])
    return labels


class Trainer:
    """AdamW without decay, clip at norm 1, learning rate falling linearly to 0."""

    def __init__(self, model, learning_rate, max_steps):
        self.model, self.learning_rate, self.max_steps, self.updates = model, learning_rate, max_steps, 0
        self.weights = list(dict.fromkeys(model.parameters()))
        self.optimizer = torch.optim.AdamW(self.weights, lr=learning_rate, eps=1e-8, weight_decay=0.0)

    def update(self, loss):
        """One update; returns the gradient norm before clipping."""
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((weight.grad**2).sum() for weight in self.weights if weight.grad is not None))
        for weight in self.weights:
            if weight.grad is not None and norm > 1.0:
                weight.grad.mul_(1.0 / norm)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - self.updates / self.max_steps)
        self.optimizer.step()
        self.updates += 1
        return float(norm)

    def stage1(self, rows):
        """rows: (question, label, rationale) id lists; label and rationale with end token."""
        total, count = loss_sum_and_count(
            self.model, [[*EXPLAIN, *question, END] for question, _, _ in rows], [row[2] for row in rows]
        )
        loss = total / count
        return loss.item(), self.update(loss)

    def sft(self, rows):
        """Labels alone."""
        total, count = loss_sum_and_count(
            self.model, [[*PREDICT, *question, END] for question, _, _ in rows], [row[1] for row in rows]
        )
        loss = total / count
        return loss.item(), self.update(loss)

    def dss(self, rows, weight):
        """Labels, and rationales without a given label, with fixed weights."""
        label_sum, label_count = loss_sum_and_count(
            self.model, [[*PREDICT, *question, END] for question, _, _ in rows], [row[1] for row in rows]
        )
        rationale_sum, rationale_count = loss_sum_and_count(
            self.model, [[*EXPLAIN, *question, END] for question, _, _ in rows], [row[2] for row in rows]
        )
        loss = weight * label_sum / label_count + (1 - weight) * rationale_sum / rationale_count
        return loss.item(), self.update(loss)

    def stage2(self, rows, weight, max_label_tokens, *, predicted):
        """One step with alpha = weight, all rows given the gold or all given the predicted label."""
        questions = [row[0] for row in rows]
        labels = (
            greedy_labels(self.model, questions, max_label_tokens)
            if predicted
            else [row[1][:-1] for row in rows]
        )
        label_sum, label_count = loss_sum_and_count(
            self.model, [[*PREDICT, *question, END] for question in questions], [row[1] for row in rows]
        )
        prompts = [
            [*GIVEN, *label, *THEN_EXPLAIN, *question, END]
            for question, label in zip(questions, labels, strict=True)
        ]
        rationale_sum, rationale_count = loss_sum_and_count(self.model, prompts, [row[2] for row in rows])
        loss = weight * label_sum / label_count + (1 - weight) * rationale_sum / rationale_count
        return loss.item(), self.update(loss), labels
