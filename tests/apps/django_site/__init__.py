"""A Django project in one directory: admin, sessions, authentication and a sqlite database."""
