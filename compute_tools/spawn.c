/*
 * spawn.c - start the postmaster of a compute, detached from this server.
 *
 * The new process gets nothing of ours but its arguments: no descriptor (a postmaster's death pipe kept open by a
 * detached compute would keep this server's backends waiting for ever), default signals, no PG* environment, a session of its
 * own.  It is a grandchild whose parent ends at once, so it belongs to nobody here and outlives us.
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

#include "miscadmin.h"

extern char **environ;

/* The environment without PG*: the server would read it. */
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
say(int fd, const char *text)
{
	ssize_t		n = write(fd, text, strlen(text));

	(void) n;
}

/* A process joins a control group by writing 0 into its list of processes; a limit that cannot be set stops nothing. */
static void
join_groups(const CtGroups *groups)
{
	for (int i = 0; i < groups->n; i++)
	{
		int			fd = open(groups->procs[i], O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, "0", 1) != 1)
			say(2, "could not join the control group that limits this compute\n");
		if (fd >= 0)
			close(fd);
	}
}

static void
exec_grandchild(const char *path, char *const argv[], char **env, int log_fd, const CtGroups *groups)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	sigset_t	none;
	int			null_fd = open("/dev/null", O_RDONLY);

	for (int s = 1; s < NSIG; s++)
		sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(null_fd, 0);
	dup2(log_fd, 1);
	dup2(log_fd, 2);
	join_groups(groups);
	if (syscall(SYS_close_range, 3U, ~0U, 0U) != 0)
		for (int fd = 3; fd < 65536; fd++)
			close(fd);
	execve(path, argv, env);
	say(2, "could not execute the server's program\n");
	_exit(127);
}

/* In the child between us and the server: tell the server's pid and go. */
static void
be_parent(const char *path, char *const argv[], char **env, int log_fd, int pid_fd, const CtGroups *groups)
{
	pid_t		pid;

	setsid();
	pid = fork();
	if (pid == 0)
		exec_grandchild(path, argv, env, log_fd, groups);
	_exit(write(pid_fd, &pid, sizeof(pid)) == sizeof(pid) && pid > 0 ? 0 : 1);
}

static pid_t
read_pid(int fd)
{
	pid_t		pid = -1;
	ssize_t		n;

	do
		n = read(fd, &pid, sizeof(pid));
	while (n < 0 && errno == EINTR);
	return n == sizeof(pid) ? pid : -1;
}

pid_t
ct_spawn_postmaster(const char *dir, const char *log_path, const CtGroups *groups)
{
	char	   *argv[] = {my_exec_path, "-D", (char *) dir, NULL};
	char	  **env = clean_environment();
	int			pipefd[2];
	int			log_fd;
	int			status;
	pid_t		child,
				pid = -1;

	log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", log_path)));
	if (pipe2(pipefd, O_CLOEXEC) != 0)
	{
		close(log_fd);
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create pipe: %m")));
	}
	fflush(NULL);
	child = fork();
	if (child == 0)
		be_parent(my_exec_path, argv, env, log_fd, pipefd[1], groups);
	close(log_fd);
	close(pipefd[1]);
	if (child > 0)
	{
		pid = read_pid(pipefd[0]);
		while (waitpid(child, &status, 0) < 0 && errno == EINTR)
			;
	}
	close(pipefd[0]);
	if (pid <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a process for the compute in \"%s\"", dir),
				 errhint("The host may be out of memory or processes.")));
	return pid;
}
