"""Steps of the language model: the vocabulary that it shares with the synthesiser, and its model."""

import shutil

from app.small.plan import Places, SmallTraining, fit


def vocabulary(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Learn the text vocabulary that the language model and the synthesiser share."""
    from app.small.text import SpokenText
    from llm.training import vocabulary as training
    from llm.training.dialogue import conversations

    prose = SpokenText().prose(training.SEED, training.NUM_PROSE)
    tokenizer = training.train(training.texts(prose, conversations(training.SEED, training.NUM_DIALOGUES)))
    training.save(tokenizer, places.asset("qwen"))
    places.asset("tmt").mkdir(parents=True, exist_ok=True)
    shutil.copy(places.asset("qwen") / "tokenizer.json", places.asset("tmt") / "tokenizer.json")
    return {"tokens": tokenizer.get_vocab_size()}


def qwen(places: Places, plan: SmallTraining) -> dict[str, float]:
    """Train the language model on its dialogues, some of them as the recogniser hears them."""
    from app.small.corpus import unseen_questions
    from app.small.hearing import confusions
    from app.small.text import SpokenText
    from llm.training.qwen import task
    from llm.training.score import HELD_OUT, read_questions
    from llm.vocabulary import Vocabulary

    amount = plan.corpus
    prose = SpokenText().prose(amount.seed, amount.prose_lines)
    misheard = confusions(places.asset("paraformer"), places.work / "misheard.json", count=amount.questions_heard)
    questions, start = read_questions(HELD_OUT), places.first_weights("qwen")
    unseen = unseen_questions()
    made = task(Vocabulary(places.asset("qwen")), prose, questions, confusions=misheard, start=start, unseen=unseen)
    others = {f"corpus.{name}": getattr(amount, name) for name in ("seed", "prose_lines", "questions_heard")}
    return fit(places, "qwen", made, plan.qwen, others)
