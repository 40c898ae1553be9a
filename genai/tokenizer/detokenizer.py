"""Token ids to text, one token at a time.

`tokenizers.decoders.DecodeStream` is not used: it has no end (the last incomplete character is lost), it holds text
back for as long as it ends in U+FFFD, and it raises when byte tokens do not form the character that they began
(tests/tokenizer/test_detokenizer.py shows each). Working on bytes, one token costs one table look-up.
"""

from __future__ import annotations

import codecs

from genai.tokenizer.token_pieces import TokenPieces


class IncrementalDetokenizer:
    """Turns a stream of tokens into a stream of text, never giving half a character.

    The chunks joined equal `Tokenizer.decode` of all tokens. One exception: SentencePiece-style byte tokens that are
    not valid UTF-8. `decode` then turns the whole run of byte tokens into U+FFFD, the complete characters in it too,
    which by then have been shown; here only the bytes that are wrong become U+FFFD.
    """

    def __init__(
        self,
        pieces: TokenPieces,
        *,
        skip_special_tokens: bool = True,
        visible_token_ids: frozenset[int] = frozenset(),
        is_begun: bool = False,
    ) -> None:
        """visible_token_ids: special tokens that are not skipped; is_begun: text stands before the first token."""
        self._pieces = pieces
        self._skipped = pieces.special_ids - visible_token_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._has_begun = is_begun

    def push(self, token_id: int) -> str:
        """Take one token; return the text that is complete with it, perhaps none. Unknown ids add nothing."""
        if token_id in self._skipped:
            return ""
        piece = self._pieces.piece(token_id) if self._has_begun else self._pieces.first_piece(token_id)
        if piece is None:
            return ""
        self._has_begun = True
        return self._utf8.decode(piece)

    def finish(self) -> str:
        """End the text: an incomplete character becomes U+FFFD. The next push begins a new text."""
        self._has_begun = False
        return self._utf8.decode(b"", final=True)
