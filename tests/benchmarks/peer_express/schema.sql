-- The table of a service that is written without an audit log: no version, an index for each filter and for the list's order.
CREATE SCHEMA peer2;
CREATE TABLE peer2.task (
  id uuid PRIMARY KEY,
  title varchar(255) NOT NULL,
  description text NOT NULL DEFAULT '',
  priority varchar(6) NOT NULL DEFAULT 'medium' CHECK (priority IN ('low', 'medium', 'high')),
  status varchar(11) NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'in_progress', 'completed')),
  category varchar(64),
  summary text,
  labels text[] NOT NULL DEFAULT '{}',
  assignee_id integer REFERENCES auth_user,
  due_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  completed_at timestamptz
);
CREATE INDEX ON peer2.task (created_at DESC);
CREATE INDEX ON peer2.task (status, created_at DESC);
CREATE INDEX ON peer2.task (priority);
CREATE INDEX ON peer2.task (assignee_id);
CREATE INDEX ON peer2.task USING gin (labels);
