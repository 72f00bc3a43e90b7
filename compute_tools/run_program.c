/*
 * run_program.c - run one program from a backend and collect what it prints.
 *
 * The child gets nothing of ours but its arguments: no descriptor (a postmaster's death pipe kept open by a
 * detached compute would keep this server's backends waiting for ever), default signals, no PG* environment.
 * After fork only async-signal-safe calls are made.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "compute_tools.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/string.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/fork_process.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#define MAX_OUTPUT_BYTES	65536

extern char **environ;

/* The environment without PG*: libpq and pg_ctl would read it. */
static char **
clean_environment(void)
{
	int			n = 0,
				k = 0;
	char	  **env;

	while (environ[n])
		n++;
	env = palloc(sizeof(char *) * (n + 2));
	for (int i = 0; i < n; i++)
		if (strncmp(environ[i], "PG", 2) != 0 && strncmp(environ[i], "LC_", 3) != 0)
			env[k++] = environ[i];
	env[k++] = "LC_ALL=C";
	env[k] = NULL;
	return env;
}

static void
exec_child(const char *path, char *const argv[], char **env, int out_fd)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t	none;
	int			null_fd = open("/dev/null", O_RDONLY);

	for (int s = 1; s < NSIG; s++)
		sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	dup2(null_fd, 0);
	dup2(out_fd, 1);
	dup2(out_fd, 2);
	if (syscall(SYS_close_range, 3U, ~0U, 0U) != 0)
		for (int fd = 3; fd < 65536; fd++)
			close(fd);
	execve(path, argv, env);
	_exit(127);
}

static void
collect(int fd, StringInfo out)
{
	char		buf[4096];
	ssize_t		n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		if (out->len + n < MAX_OUTPUT_BYTES)
			appendBinaryStringInfo(out, buf, n);
}

int
ct_run(const char *program, char *const argv[], int timeout_ms, StringInfo output)
{
	char		path[MAXPGPATH];
	char	  **env = clean_environment();
	char	  **args;
	int			argc = 0;
	int			pipefd[2];
	pid_t		pid;
	int			status = 0;
	TimestampTz start = GetCurrentTimestamp();

	strlcpy(path, my_exec_path, sizeof(path));
	get_parent_directory(path);
	join_path_components(path, path, program);

	/* the server's programs find each other by the path in argv[0] */
	while (argv[argc])
		argc++;
	args = palloc0(sizeof(char *) * (argc + 1));
	memcpy(args, argv, sizeof(char *) * argc);
	args[0] = path;

	if (pipe2(pipefd, O_CLOEXEC | O_NONBLOCK) != 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create pipe: %m")));
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		exec_child(path, args, env, pipefd[1]);
	close(pipefd[1]);
	if (pid < 0)
	{
		close(pipefd[0]);
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES), errmsg("could not start \"%s\": %m", program)));
	}

	PG_TRY();
	{
		/* a detached grandchild may keep the pipe open: the child's exit ends the wait, not EOF */
		while (waitpid(pid, &status, WNOHANG) == 0)
		{
			if (GetCurrentTimestamp() - start > (int64) timeout_ms * 1000)
				ereport(ERROR,
						(errcode(ERRCODE_QUERY_CANCELED),
						 errmsg("\"%s\" did not end within %d ms", program, timeout_ms)));
			collect(pipefd[0], output);
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5, PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
		collect(pipefd[0], output);
	}
	PG_CATCH();
	{
		kill(pid, SIGKILL);
		(void) waitpid(pid, &status, 0);
		close(pipefd[0]);
		PG_RE_THROW();
	}
	PG_END_TRY();
	close(pipefd[0]);
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	return WEXITSTATUS(status);
}
