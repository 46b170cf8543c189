from pathlib import Path

import pytest
from tokenizers import Tokenizer

from underpaint.build.tiny.architectures import TOKENS
from underpaint.build.tiny.scenes import PHRASINGS, caption, stream
from underpaint.build.tiny.tokenizer import caption_words, encode, learn_merges, load_tokenizer, write_tokenizer

STRANGE = ["", "A Red  Circle!!", "über 42 cats' 日本 <|endoftext|> x", "it's\n a\tdog", "word " * 40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [caption(scene, index % PHRASINGS) for index, scene in enumerate(stream(11, 400))]


def test_the_tokenizers_library_alone_gives_the_same_ids(folder: Path, captions: list[str]) -> None:
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [*captions, *STRANGE]
    assert [encoding.ids for encoding in alone.encode_batch(prompts)] == encode(load_tokenizer(folder), prompts)


def test_captions_fit_and_come_back(folder: Path, captions: list[str]) -> None:
    tokenizer = load_tokenizer(folder)
    for prompt, ids in zip(captions, encode(tokenizer, captions), strict=True):
        assert len(ids) == TOKENS
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id, "the end must not be cut off"
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ,", ",") == prompt


def test_every_caption_word_is_one_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in caption_words())


def test_merges_do_not_depend_on_the_order_of_words() -> None:
    assert learn_merges(caption_words()) == learn_merges(reversed(caption_words()))


def test_the_shipped_tokenizer_is_the_written_one(folder: Path) -> None:
    shipped = Path(__file__).parents[2] / "model_repository" / "tiny_tokenizer" / "1"
    for name in ("vocab.json", "merges.txt"):
        assert (shipped / name).read_text() == (folder / name).read_text()
