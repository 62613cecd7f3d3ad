// Only a process can make a user namespace, and of a Go process a copy costs much: it is
// made here, in the memory that there is.
#define _GNU_SOURCE
#include "userns.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { stack_size = 16 << 10 };

// idle does nothing until it is killed, at the latest with who made it. It shares that
// process's memory, and so touches nothing of it: not even errno.
static int idle(void *parent) {
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	while (syscall(SYS_getppid) == (pid_t)(long)parent)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
	syscall(SYS_exit, 0);
	return 0;
}

static int write_map(pid_t pid, const char *name, const char *map) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, map, strlen(map));
	int err = n < 0 ? -errno : 0;
	close(fd);
	return err;
}

int userns_open(const char *map) {
	char *stack = malloc(stack_size);
	if (stack == NULL)
		return -ENOMEM;
	// No handler of ours may run in the child.
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid_t pid = clone(idle, stack + stack_size, CLONE_VM | CLONE_NEWUSER, (void *)(long)getpid());
	int err = pid < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	int fd = -1;
	if (err == 0)
		err = write_map(pid, "uid_map", map);
	if (err == 0)
		err = write_map(pid, "gid_map", map);
	if (err == 0) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			err = -errno;
	}
	if (pid > 0) {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	free(stack);
	return err != 0 ? err : fd;
}
