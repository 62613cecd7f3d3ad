// lxcboot-init stands between libvirt and a container's own init, and is what enters a
// running container. It does what must be done by a process inside, executes the
// program that is meant, and nothing of it is left.
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void malformed(void)
{
	fputs("lxcboot-init: this program is started by lxcboot alone\n", stderr);
	_exit(126);
}

int read_orders(struct orders *o, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	o->next = malloc(st.st_size + 1);
	if (!o->next)
		return -1;
	o->end = o->next;
	while (o->end < o->next + st.st_size) {
		ssize_t n = pread(fd, o->end, o->next + st.st_size - o->end, o->end - o->next);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		if (n == 0)
			break;
		o->end += n;
	}
	return 0;
}

char *text(struct orders *o)
{
	char *s = o->next, *zero = memchr(s, 0, o->end - s);

	if (!zero)
		malformed();
	o->next = zero + 1;
	return s;
}

unsigned long long number(struct orders *o)
{
	char *s = text(o), *rest;
	unsigned long long n;

	errno = 0;
	n = strtoull(s, &rest, 10);
	if (errno || !*s || *rest)
		malformed();
	return n;
}

char **list(struct orders *o)
{
	size_t n = number(o);

	if (n > (size_t)(o->end - o->next))
		malformed();
	char **all = calloc(n + 1, sizeof *all);
	if (!all)
		malformed();
	for (size_t i = 0; i < n; i++)
		all[i] = text(o);
	return all;
}

int write_file(const char *path, const char *s)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	ssize_t n = write(fd, s, strlen(s));
	int err = errno;
	close(fd);
	errno = err;
	return n < 0 ? -1 : 0;
}

// reset_signals gives the program the signals as the kernel has them. Ignored and
// blocked ones would outlive execve.
void reset_signals(void)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int i = 1; i < NSIG; i++)
		sigaction(i, &dfl, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

int main(int argc, char **argv)
{
	if (argc == 1 && getpid() == 1)
		run_init();
	if (argc == 2 && !strcmp(argv[1], "enter"))
		run_enter();
	malformed();
}
