-- Users, sessions and API tokens.
SELECT 1;
