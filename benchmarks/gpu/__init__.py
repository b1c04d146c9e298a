"""All figures and checks of a GPU worth having, in one command of bounded time, the most important first."""
