/*
 * floor_bench.c - the floor of the page stream: requests of 47 bytes and answers of 8240 over a bare TCP socket.
 *
 * floor_bench SECONDS DEPTH: prints the median round trip in microseconds and answers a second.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_BYTES	47
#define ANSWER_BYTES	8240
#define MAX_SAMPLES		4000000

static double
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int
read_all(int fd, char *buf, size_t n)
{
	while (n > 0)
	{
		ssize_t		r = read(fd, buf, n);

		if (r <= 0)
			return -1;
		buf += r;
		n -= r;
	}
	return 0;
}

static int
write_all(int fd, const char *buf, size_t n)
{
	while (n > 0)
	{
		ssize_t		r = write(fd, buf, n);

		if (r <= 0)
			return -1;
		buf += r;
		n -= r;
	}
	return 0;
}

/* Answers whatever has arrived, in one write. */
static void
serve(int fd)
{
	static char in[REQUEST_BYTES * 64],
				out[ANSWER_BYTES * 64];
	size_t		have = 0;

	for (;;)
	{
		ssize_t		r = read(fd, in + have, sizeof(in) - have);
		size_t		n;

		if (r <= 0)
			_exit(0);
		have += r;
		n = have / REQUEST_BYTES;
		if (n > 0 && write_all(fd, out, n * ANSWER_BYTES) != 0)
			_exit(0);
		have -= n * REQUEST_BYTES;
	}
}

static int
compare(const void *a, const void *b)
{
	float		x = *(const float *) a,
				y = *(const float *) b;

	return x < y ? -1 : x > y;
}

int
main(int argc, char **argv)
{
	double		seconds = argc > 1 ? atof(argv[1]) : 3;
	int			depth = argc > 2 ? atoi(argv[2]) : 1;
	int			lfd = socket(AF_INET, SOCK_STREAM, 0),
				fd,
				one = 1;
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t	al = sizeof(a);
	static char req[REQUEST_BYTES * 64],
				ans[ANSWER_BYTES];
	float	   *sample = malloc(sizeof(float) * MAX_SAMPLES);
	size_t		n = 0,
				total = 0;
	double		start,
				end;
	pid_t		pid;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (depth < 1 || depth > 64 || bind(lfd, (struct sockaddr *) &a, sizeof(a)) || listen(lfd, 1) ||
		getsockname(lfd, (struct sockaddr *) &a, &al))
		return 1;
	pid = fork();
	if (pid == 0)
	{
		fd = accept(lfd, NULL, NULL);
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		serve(fd);
	}
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *) &a, sizeof(a)))
		return 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	start = now_us();
	end = start + seconds * 1e6;
	for (double t = start; t < end;)
	{
		double		t2;

		if (write_all(fd, req, (size_t) REQUEST_BYTES * depth))
			return 1;
		for (int i = 0; i < depth; i++)
			if (read_all(fd, ans, ANSWER_BYTES))
				return 1;
		t2 = now_us();
		if (n < MAX_SAMPLES)
			sample[n++] = (t2 - t) / depth;
		total += depth;
		t = t2;
	}
	end = now_us();
	close(fd);
	waitpid(pid, NULL, 0);
	qsort(sample, n, sizeof(float), compare);
	printf("%.2f %.0f\n", sample[n / 2], total / ((end - start) / 1e6));
	return 0;
}
