"""The contract `Retriever`: search and answers for other systems of this process. Adds no right and no path.

What HTTP answers with an error is a value here.
"""

from interlock.contracts.retrieval import Answer, AnswerQuery, RetrievalRefused, SearchQuery, SearchResult
from interlock.foundation.errors import InterlockError
from interlock.foundation.scope import Scope
from interlock.retrieval.service.answers import AnswerService


class LocalRetriever:
    """Implements `contracts.retrieval.Retriever`."""

    def __init__(self, answers: AnswerService) -> None:
        self._answers = answers

    async def search(self, scope: Scope, principal: str | None, query: SearchQuery) -> SearchResult | RetrievalRefused:
        try:
            return (await self._answers.search.search(scope, principal, query)).result
        except InterlockError as error:
            return _refused(error)

    async def answer(self, scope: Scope, principal: str | None, query: AnswerQuery) -> Answer | RetrievalRefused:
        try:
            return (await self._answers.answer(scope, principal, query)).answer
        except InterlockError as error:
            return _refused(error)

    def profile_digest(self, name: str) -> str:
        return self._answers.search.profile_digest(name)


def _refused(error: InterlockError) -> RetrievalRefused:
    return RetrievalRefused(error.code, error.message, error.retry_after_s)
