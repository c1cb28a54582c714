"""Tasks: template, rubrics, gold writer and grader of each kind of question, in one table."""

from __future__ import annotations

from saccade.tasks.answers import ANSWER_TASKS
from saccade.tasks.boxes import BOX_TASKS
from saccade.tasks.task import Task
from saccade.tasks.templates import IMAGE, QUESTIONS, TEMPLATES, Template, find_template, write_question

TASKS: dict[str, Task] = {task.name: task for task in (*ANSWER_TASKS, *BOX_TASKS)}

__all__ = ["IMAGE", "QUESTIONS", "TASKS", "TEMPLATES", "Task", "Template", "find_template", "write_question"]
