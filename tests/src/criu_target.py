import os, sys, threading, time

os.closerange(3, 64)
memory = os.urandom(int(sys.argv[1]))
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
while True:
    file = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"%d\n" % time.time_ns())
    os.close(file)
    time.sleep(0.001)
